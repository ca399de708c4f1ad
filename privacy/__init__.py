"""Mathematics and locks: mechanisms, accounting, randomness, errors, reports; imports neither Flower nor torch."""
