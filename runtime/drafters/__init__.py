"""What drafts: the Drafter protocol, models, look-ups, and the drafters that are shipped."""
