"""What variants share: the engines of blocks, chunks, recurrences and caches. None is a variant."""
