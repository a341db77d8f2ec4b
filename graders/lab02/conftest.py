"""What the checks of lab 02 share. Checks need nothing but `lab`, which the plugin provides."""
