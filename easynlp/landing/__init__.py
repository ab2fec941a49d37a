"""The whole road in one command: from a few labels and a large model to a small served one."""
