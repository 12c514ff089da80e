"""Orders of points along a short path: the smoothest order of a network's channels.

The path that visits every point once (shortest Hamiltonian path) has the least total variation.
J. E. Atkins, E. G. Boman & B. Hendrickson, SIAM J. Comput. 28, 1998, for seriation.
"""
