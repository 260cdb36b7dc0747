"""Look-up sources: what drafts are copied from, one module for each source."""
