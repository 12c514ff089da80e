"""Weight manifolds: function-preserving channel orders, smooth fits of weights, sampled widths."""
