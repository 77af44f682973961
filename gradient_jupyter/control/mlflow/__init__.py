"""MLflow's nouns over ours: projects as experiments; jobs, and what is logged beside them, as runs; their
files; logged models. Its words on the wire are ``api.mlflow``'s."""
