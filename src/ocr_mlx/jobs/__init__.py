"""Documents that are read later: kept until they are done, whatever happens to the process."""
