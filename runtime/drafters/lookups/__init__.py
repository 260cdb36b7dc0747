"""Look-up sources: what drafts may be copied from, each source in a module of its own."""
