"""Text encoders and the embeddings they make."""
