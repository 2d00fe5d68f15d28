"""What answers the questions: a server, a model in this process, a predictions file, or a baseline without a model."""
