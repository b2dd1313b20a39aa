"""What every store in a relational database needs, whatever library talks to the database."""
