"""chunkstore inside other tools. Each module needs its tool installed and is imported by it."""
