"""How far a classifier holds on images that are corrupted, perturbed, or made to mislead it."""
