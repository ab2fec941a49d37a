"""From a run folder to a served model."""
