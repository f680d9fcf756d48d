"""Studies: the same trainings on several data sets, shares of labels and seeds."""
