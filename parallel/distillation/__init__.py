"""What a drafter learns: its student model, its loss, and the tokens it can draft."""
