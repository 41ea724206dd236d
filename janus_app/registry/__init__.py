"""A name becomes a Variant: the manifest, checkpoint folders and the user's own models."""
