"""`paceline serve`, and the verbs that talk to a server."""
