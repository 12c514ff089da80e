"""Weight manifolds of a collection: groups and orders, fits, the geometry of its checkpoints."""
