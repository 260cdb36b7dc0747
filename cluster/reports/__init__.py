"""The report of a run, and the file that a measurement resumes from."""
