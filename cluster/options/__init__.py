"""The settings of the verbs."""
