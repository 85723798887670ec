"""Running other programs: processes and their groups."""
