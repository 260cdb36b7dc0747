"""One rank of a model: step plans, its shard, its cache pages, and fakes of these."""
