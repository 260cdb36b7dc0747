"""What a run reports, and the file that it resumes from."""
