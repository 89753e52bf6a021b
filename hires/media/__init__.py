"""Pictures in, sheets and clips out."""
