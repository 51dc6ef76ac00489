from srgan_edge.cli import main

main()
