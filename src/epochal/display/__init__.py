"""What people see while a model trains."""
