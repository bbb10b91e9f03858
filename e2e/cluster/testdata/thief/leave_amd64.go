package main

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// exit has another process end with 0, by way of a debugger's rights over it. It
// returns only where it has none.
func exit(pid int) error {
	runtime.LockOSThread() // which a tracer is
	if err := unix.PtraceAttach(pid); err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return err
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return err
	}
	text := make([]byte, 2)
	if _, err := unix.PtracePeekText(pid, uintptr(regs.Rip-2), text); err != nil {
		return err
	}
	if text[0] != 0x0f || text[1] != 0x05 { // the instruction SYSCALL
		_ = unix.PtraceDetach(pid)
		return fmt.Errorf("it is in no system call")
	}
	regs.Rip -= 2
	regs.Orig_rax, regs.Rax, regs.Rdi = ^uint64(0), unix.SYS_EXIT_GROUP, 0
	if err := unix.PtraceSetRegs(pid, &regs); err != nil {
		return err
	}
	if err := unix.PtraceCont(pid, 0); err != nil {
		return err
	}
	wait() // our process namespace ends with it
	return nil
}
