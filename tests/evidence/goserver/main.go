// A TCP server whose accepting goroutine ends on "break", with the listener left open.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	breaking := make(chan bool, 1)
	ended := make(chan bool)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				panic(err)
			}
			connection.Close()
			select {
			case <-breaking:
				ended <- true
				return
			default:
			}
		}
	}()
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		breaking <- true
		if connection, err := net.Dial("tcp", listener.Addr().String()); err == nil {
			connection.Close()
		}
		<-ended
		fmt.Println(lines.Text())
	}
}
