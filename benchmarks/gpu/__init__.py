"""How many images a second one GPU takes through a conditional pipeline."""
