"""What is fetched for a user from elsewhere: one way out, checked; and nothing of a visit stays behind."""
