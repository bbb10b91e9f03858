// Command thief is what a RUN step would run that is after secrets in a cluster.
// Each verb tries one kind of thing and prints a line for every attempt: "held"
// and why it failed, or "BREACH" and what it got. It ends well either way: the
// image, or the log, shows what it got.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	verbs := map[string]func(args []string){
		"loot": loot, "dump": dump, "absent": absent, "identity": identity, "calls": calls, "devices": devices, "descriptors": descriptors, "processes": processes,
		"ask": ask, "dial": dial, "api": api, "tell": tell,
		"late": late, "forge": forge, "leave": leave, "stay": stay, "remain": remain, "shared": shared, "talk": talk, "fill": fill,
	}
	verb, known := verbs[os.Args[1]]
	if !known {
		breach("no such verb: %s", os.Args[1])
		os.Exit(1)
	}
	verb(os.Args[2:])
	fmt.Println("tried", strings.Join(os.Args[1:], " "))
}

func breach(format string, args ...any) { fmt.Printf("BREACH "+format+"\n", args...) }

// attempt says how one went.
func attempt(what string, err error) {
	if err == nil {
		breach("%s", what)
		return
	}
	fmt.Printf("held %s: %v\n", what, err)
}

// must ends a verb that cannot do its work.
func must(err error) {
	if err != nil {
		fmt.Println("cannot:", err)
		os.Exit(3)
	}
}
