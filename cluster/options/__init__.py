"""What each verb was asked for."""
