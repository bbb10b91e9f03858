//go:build !amd64

package main

import "errors"

func exit(int) error { return errors.New("not on this kind of machine") }
