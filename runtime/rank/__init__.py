"""One rank of a model: its step plans, its shard, its cache pages, and the fakes of these."""
