package sandbox_test

func doomedMain(string) {}
