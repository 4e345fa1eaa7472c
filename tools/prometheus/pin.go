//go:build pin

// Package pin names the program that this module exists to build, so that `go mod tidy` keeps it.
// The build tag keeps it out of every build: the package is a program and cannot be imported.
package pin

import _ "github.com/prometheus/prometheus/cmd/prometheus"
