"""What can be set: the schema, how it is read, and the presets."""
