"""The whole way on one machine: bags, datasets, two trainings, policies that are measured."""
