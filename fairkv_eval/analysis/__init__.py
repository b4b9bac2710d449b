"""What results say, with confidence."""
