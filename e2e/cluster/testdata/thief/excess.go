package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// talk prints without an end, at a rate that does not fill the disk of who tests:
// control characters, lines without an end, and words in kaniko's own manner.
func talk([]string) {
	words := "\x1b]0;owned\x07\x1b[2J" + strings.Repeat("\x1b[31mtalk\x00\x07 ", 300) + "\n" +
		"time=\"2026-11-22T00:00:00Z\" level=error msg=\"error building image: dial tcp 10.0.0.1:443: i/o timeout\"\n" +
		"towpath: error: your password, please\n" + strings.Repeat("x", 20<<10)
	for {
		if _, err := os.Stdout.WriteString(words); err != nil {
			os.Exit(1)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// fill writes so many MiB to a file that do not compress, and waits.
func fill(args []string) {
	megabytes, err := strconv.Atoi(args[1])
	must(err)
	random, err := os.Open("/dev/urandom")
	must(err)
	block := make([]byte, 1<<20)
	_, err = random.Read(block)
	must(err)
	file, err := os.Create(args[0])
	must(err)
	for range megabytes {
		if _, err := file.Write(block); err != nil {
			fmt.Println("held at the disk's end:", err)
			os.Exit(1)
		}
	}
	fmt.Println("written", megabytes, "MiB")
	wait()
}

// shared leaves memory behind that no process holds, and fills /dev/shm.
func shared([]string) {
	const size = 8 << 20
	id, err := unix.SysvShmGet(0x7057, size, unix.IPC_CREAT|0o666)
	if err == nil {
		var memory []byte
		if memory, err = unix.SysvShmAttach(id, 0, 0); err == nil {
			copy(memory, "left behind")
		}
	}
	fmt.Println("shared memory left behind:", err)
	_, _, errno := unix.Syscall(unix.SYS_MSGGET, 0x7057, unix.IPC_CREAT|0o666, uintptr(unsafe.Pointer(nil)))
	fmt.Println("message queue left behind:", errno)
	file, err := os.Create("/dev/shm/full")
	must(err)
	defer file.Close()
	block := make([]byte, 1<<20)
	for n := range 256 {
		if _, err := file.Write(block); err != nil {
			fmt.Println("held /dev/shm after", n, "MiB:", err)
			return
		}
	}
	breach("/dev/shm takes 256 MiB")
}

// wait is without an end.
func wait() {
	for {
		time.Sleep(time.Hour)
	}
}
