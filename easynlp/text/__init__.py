"""Text before it becomes ids, and the ids."""
