//go:build pin

// Package pin names the program that this module exists to build, so that `go mod tidy` keeps it.
// The build tag keeps it out of every build: Consul's root package is a program and cannot be imported.
package pin

import _ "github.com/hashicorp/consul"
