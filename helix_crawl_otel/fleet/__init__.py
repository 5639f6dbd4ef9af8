"""One build on many cards and machines. Ray places the shards; what a node does is what one machine does."""
