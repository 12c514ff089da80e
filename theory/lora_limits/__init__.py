"""When almost-linear-time attention and LoRA gradients are guaranteed, and what they would cost.

J. Y.-C. Hu, M. Su, E.-J. Kuo, Z. Song & H. Liu, "Computational Limits of Low-Rank Adaptation (LoRA)
Fine-Tuning for Transformer Models", arXiv 2406.03136, ICLR 2025 (theorems 3.1, 4.1 and A.1), after
J. Alman & Z. Song, "Fast Attention Requires Bounded Entries", arXiv 2302.13214, NeurIPS 2023.

‖Z‖∞ is the largest |entry| throughout, not an operator norm, and log is the natural logarithm.
"""
