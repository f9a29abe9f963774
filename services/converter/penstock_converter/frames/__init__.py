"""Which messages make a frame, by times alone, and how they stream by."""
