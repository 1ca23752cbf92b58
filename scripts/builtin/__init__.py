"""Training of the built-in model: text, pictures, graph, training, export and evaluation, in that order."""
