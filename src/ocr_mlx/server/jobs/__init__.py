"""Documents that are read later, and the models that read them."""
