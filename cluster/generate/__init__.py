"""`paceline generate`: prompts in, answers out."""
