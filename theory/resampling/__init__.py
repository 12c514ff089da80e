"""Weights as samples of a function of the channel position, and sampling it at another width.

Channel a of A sits at the cell centre u_a = (a + ½)/A of [0, 1]. K. Solodskikh et al., "Integral
Neural Networks", CVPR 2023; X. Yang & X. Wang, "Neural Metamorphosis", arXiv 2410.11878, ECCV 2024.
"""
