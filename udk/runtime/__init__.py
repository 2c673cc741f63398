"""From an image's config, flags and site configuration to one RunSpec, and from a reference to an image."""
