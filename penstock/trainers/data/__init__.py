"""What a step trains on: shards and a step's number in, isolated batches out."""
