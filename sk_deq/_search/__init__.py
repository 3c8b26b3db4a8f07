"""Which kernel suits a table: candidates and feature weights, by closed-form leave-one-out."""
