"""Constraints on outputs: from a schema, a regular expression or a grammar to masks of tokens."""
